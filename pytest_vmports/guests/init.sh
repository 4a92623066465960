#!/bin/busybox sh
# PID 1 of a guest that pytest-vmports prepared. It stands in an archive that is appended to the
# initrd, so it replaces the distribution's own /init.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /run /tmp /root /etc
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
$bb mkdir -p /dev/pts /dev/shm
$bb mount -t devpts devpts /dev/pts
$bb chmod 1777 /tmp
# Where busybox has its links, which it makes in folders that are there.
$bb mkdir -p /bin /sbin /usr/bin /usr/sbin
$bb --install -s
# busybox init reaps the orphans that a setup leaves behind; a shell as PID 1 would not. It reads
# /etc/inittab, which runs /vmports/boot.
exec $bb init
