"""Archives in cpio's newc format, read back; see cpio(5)."""


def read_newc(data):
    """Return path to (mode, content) of a newc archive, the paths in order; see cpio(5)."""
    found, at, inodes = {}, 0, set()
    while True:
        head = data[at : at + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, size, name_size = *fields[:4], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = at + (110 + name_size + 3) // 4 * 4
        content = data[start : start + size]
        assert len(content) == size
        at = start + (size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert not data[at:].strip(b"\0")
            return found
        assert (uid, gid) == (0, 0)
        assert inode not in inodes, "two files of one inode are hard links"
        inodes.add(inode)
        assert name[:-1].decode() not in found
        found[name[:-1].decode()] = mode, content
