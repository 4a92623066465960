/* The agent: what runs in a guest that pytest-vmports prepared, on the control channel.
 *
 * It sets the clock of a guest restored from a template, and runs commands for the test. It is a
 * program and not a script because a restored guest under emulation takes a quarter of a second to
 * start any program, and this one is running when the template is saved. It uses no C library, so
 * that it fits any Linux guest; scripts/build-agent makes the executable that the package carries.
 *
 * Frames, both ways: one byte of type, three bytes of length (little endian), the payload.
 *
 *   from the host                           from the guest
 *   C  set the clock: struct timespec,      V  ready; the setup's exit status, decimal
 *      then seed for random numbers,
 *      if any
 *   N  change a network card: its address   C  the clock is set; errno, decimal
 *      (6 bytes), rtnetlink(7) requests     N  all was done to the card; errno, decimal
 *   S  begin a command's text               A  an S, s or I frame was consumed
 *   s  more of it                           O  the command's output
 *   X  run it                               E  its error output
 *   I  the command's input                  X  it ended; its wait status, decimal
 *   i  end of the input
 *   K  kill it and what it started
 *   T  send bytes to ourselves by TCP        T  that is done; errno, decimal
 *
 * Of the requests of N each is about one card, whose number is filled in here; one whose sequence
 * number is 0 may be refused.
 *
 * The text is: directory NUL variable=value NUL ... NUL NUL argument NUL argument NUL ...
 * The host sends the next S, s or I only after an A: a serial port has no flow control that QEMU
 * honours, and the kernel drops what it has no room for. One command runs at a time.
 *
 * A serial port takes each byte by itself. Where there is a window, which is memory that the host
 * has too (an ivshmem device), the frames carry numbers only, and what they tell of lies there:
 *
 *   W  run the text that lies there; its    o  so many bytes of the command's output lie there,
 *      size in four bytes, little endian       decimal; the next come after an R
 *   J  input lies there; its size likewise  e  of its error output likewise
 *   R  what lay there was read; o or e
 *
 * With each V and C the agent copies to its second 16 bytes what the host wrote to the first 16: so
 * the host knows that both of them, as they are now, see the same memory. It sends no W before, and
 * only a command that was run by W may use the window.
 */

typedef unsigned char u8;
typedef unsigned long u64;
typedef long i64;

enum { WNOHANG = 1, POLLIN = 1, POLLOUT = 4, POLLERR = 8 };
enum { SET_FLAGS = 4, EAGAIN = 11, HERE = -100, WRONLY = 1, NONBLOCK = 04000, CLOEXEC = 02000000, INET = 2, STREAM = 1 };
enum { RESEED_NOW = 0x5207 /* RNDRESEEDCRNG */, CLOCK = 16 };
/* Source: Linux, include/uapi/linux/netlink.h and sockios.h. */
enum { NETLINK = 16, RAW = 3, HEAD = 16, CARD_AT = 20, ERROR_AT = 16, MAC = 6, ENODEV = 19, EINVAL = 22 };
enum { GET_NAME = 0x8910, GET_MAC = 0x8927, MAC_AT = 18, MOST_CARDS = 256 };
enum { FRAME = 4096, TEXT = 1 << 18, ARGS = 4096, LEFT = 64, SIGKILL = 9, SIGPIPE = 13, CANNOT_RUN = 127 };
enum { RDWR = 2, READ_WRITE = 3, SHARED = 1, DONTFORK = 10, BYTES_THERE = 0x541b, SET_SIZE = 1031 };
/* The window: what each says that it is there, a command's text, its input and both outputs. */
enum { NONCE = 16, TEXT_AT = 4096, SLOT = 1 << 20, INPUT_AT = SLOT, OUT_AT = 2 * SLOT, ERR_AT = 3 * SLOT,
       WINDOW = 4 * SLOT };
/* What is no longer than this is sent faster than it is told of. A pipe holds so much at first. */
enum { SMALL = 256, PIPE = 1 << 16 };

struct pollfd { int fd; short events, got; };

/* What differs between processors. Sources: Linux, arch/x86/entry/syscalls/syscall_64.tbl and
 * include/uapi/asm-generic/unistd.h; arm64 and riscv64 have none of the calls that newer ones replace. */
#ifdef __x86_64__
enum { READ, WRITE, CLOSE = 3, POLL = 7, MMAP = 9, SIGACTION = 13, IOCTL = 16, MADVISE = 28, DUP2 = 33,
       SOCKET = 41, CONNECT, BIND = 49, LISTEN, GETSOCKNAME, FORK = 57, EXECVE = 59, EXIT = 60, WAIT4, KILL,
       FCNTL = 72, CHDIR = 80, FCHOWN = 93, SETUID = 105, SETGID, SETSID = 112, SETGROUPS = 116, CHROOT = 161, CLOCK_SETTIME = 227, OPENAT = 257, ACCEPT4 = 288, PIPE2 = 293,
       PIDFD_OPEN = 434 };
#else
enum { DUP3 = 24, FCNTL, IOCTL = 29, CHDIR = 49, CHROOT = 51, FCHOWN = 55, OPENAT = 56, CLOSE, PIPE2 = 59, READ = 63, WRITE, PPOLL = 73,
       EXIT = 93, CLOCK_SETTIME = 112, KILL = 129, SIGACTION = 134, SETGID = 144, SETUID = 146, SETSID = 157,
       SETGROUPS = 159, SOCKET = 198, BIND = 200, LISTEN,
       CONNECT = 203, GETSOCKNAME, CLONE = 220, EXECVE, MMAP, MADVISE = 233, ACCEPT4 = 242, WAIT4 = 260,
       PIDFD_OPEN = 434 };
enum { SIGCHLD = 17 };
#endif
#ifdef __aarch64__
enum { IS_ARM = 1 };
#else
enum { IS_ARM = 0 };
#endif

static i64 sys6(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
#ifdef __x86_64__
	i64 got;
	register i64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(got) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return got;
#elif defined(__riscv)
	register i64 a7 __asm__("a7") = n, a0 __asm__("a0") = a, a1 __asm__("a1") = b;
	register i64 a2 __asm__("a2") = c, a3 __asm__("a3") = d, a4 __asm__("a4") = e, a5 __asm__("a5") = f;
	__asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
	return a0;
#else
	register i64 x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
	register i64 x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}

static i64 sys(i64 n, i64 a, i64 b, i64 c, i64 d)
{
	return sys6(n, a, b, c, d, 0, 0);
}

#ifndef __x86_64__
/* The compiler calls it for what it fills with zeros. */
void *memset(void *start, int value, u64 size)
{
	for (u64 i = 0; i < size; i++)
		((u8 *)start)[i] = value;
	return start;
}
#endif

static void become(int fd, int other)
{
#ifdef __x86_64__
	sys(DUP2, other, fd, 0, 0);
#else
	sys(DUP3, other, fd, 0, 0);
#endif
}

static i64 fork(void)
{
#ifdef __x86_64__
	return sys(FORK, 0, 0, 0, 0);
#else
	return sys(CLONE, SIGCHLD, 0, 0, 0);
#endif
}

/* Milliseconds; -1 waits for ever. */
static i64 poll(struct pollfd *all, u64 count, i64 wait)
{
#ifdef __x86_64__
	return sys(POLL, (i64)all, count, wait, 0);
#else
	i64 time[2] = { 0, wait * 1000000 };
	return sys(PPOLL, (i64)all, count, wait < 0 ? 0 : (i64)time, 0);
#endif
}

static u64 length(const char *text)
{
	u64 n = 0;
	while (text[n])
		n++;
	return n;
}

static void write_all(int fd, const u8 *data, u64 size)
{
	while (size) {
		i64 done = sys(WRITE, fd, (i64)data, size, 0);
		if (done <= 0)
			sys(EXIT, 1, 0, 0, 0);
		data += done, size -= done;
	}
}

static void read_all(u8 *data, u64 size)
{
	while (size) {
		i64 done = sys(READ, 0, (i64)data, size, 0);
		if (done <= 0)
			sys(EXIT, 1, 0, 0, 0);
		data += done, size -= done;
	}
}

static void say(u8 type, const void *data, u64 size)
{
	static u8 out[4 + FRAME];
	const u8 *from = data;
	out[0] = type, out[1] = size, out[2] = size >> 8, out[3] = size >> 16;
	for (u64 i = 0; i < size; i++)
		out[4 + i] = from[i];
	write_all(1, out, 4 + size);
}

static void say_number(u8 type, u64 number)
{
	char digits[20];
	int at = sizeof digits;
	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	say(type, digits + at, sizeof digits - at);
}

/* A command that reads no more must not end us; it itself begins with the usual ending. */
static void on_broken_pipe(i64 handler)
{
	i64 action[4] = { handler, 0, 0, 0 };
	sys(SIGACTION, SIGPIPE, (i64)action, 0, 8);
}

static char text[TEXT];
static u64 text_size;
static i64 child = -1;
static int pidfd = -1, in = -1, out = -1, err = -1;
/* Pipes that something a command left behind still writes to: closing them would kill it. */
static int left[LEFT];
/* Open from the start: the code that opens a file is much for a restored guest to run through. */
static i64 urandom;
static u8 frame_input[FRAME], *input, *window;
static u64 input_at, input_size;
/* Of the command that runs: whether it uses the window, whether it has ended, and how. */
static int by_window, reaped, status;
/* Of its output and error output: what lies in the window is not read yet; what is left in the pipe
 * when it has ended; the pipe was widened. */
static struct flow { u64 rest; int busy, wide; } o, e;

static void shut(int *fd)
{
	if (*fd >= 0)
		sys(CLOSE, *fd, 0, 0, 0);
	*fd = -1;
}

static void leave(int *fd)
{
	for (int i = 0; i < LEFT && *fd >= 0; i++)
		if (left[i] < 0)
			left[i] = *fd, *fd = -1;
	shut(fd);
}

/* Tells of what cannot be done, and ends. */
static void refuse(const char *what, const char *name)
{
	sys(WRITE, 2, (i64)what, length(what), 0);
	sys(WRITE, 2, (i64)name, length(name), 0);
	sys(WRITE, 2, (i64)"\n", 1, 0);
	sys(EXIT, CANNOT_RUN, 0, 0, 0);
}

static void become_command(int *pipes)
{
	static char *words[ARGS];
	char *at = text, *end = text + text_size;
	char **environment = words + 1, **arguments;
	int n = 1;

	on_broken_pipe(0 /* SIG_DFL */);
	sys(SETSID, 0, 0, 0, 0);
	become(0, pipes[0]);
	become(1, pipes[3]);
	become(2, pipes[5]);
	for (at += length(at) + 1; at < end && *at && n < ARGS / 2; at += length(at) + 1)
		words[n++] = at;
	arguments = words + ++n;
	for (at++; at < end && n < ARGS - 1; at += length(at) + 1)
		words[n++] = at;
	if (sys(CHDIR, (i64)text, 0, 0, 0) < 0)
		refuse("vmports: no such directory: ", text);
	sys(EXECVE, (i64)*arguments, (i64)arguments, (i64)environment, 0);
	refuse("vmports: cannot run ", *arguments);
}

static void run(void)
{
	int pipes[6];
	for (int i = 0; i < 6; i += 2)
		if (sys(PIPE2, (i64)(pipes + i), CLOEXEC, 0, 0) < 0)
			sys(EXIT, 1, 0, 0, 0);
	child = fork();
	if (child == 0)
		become_command(pipes);
	sys(CLOSE, pipes[0], 0, 0, 0);
	sys(CLOSE, pipes[3], 0, 0, 0);
	sys(CLOSE, pipes[5], 0, 0, 0);
	in = pipes[1], out = pipes[2], err = pipes[4];
	sys(FCNTL, in, SET_FLAGS, NONBLOCK, 0);
	pidfd = child > 0 ? sys(PIDFD_OPEN, child, 0, 0, 0) : -1;
	text_size = 0;
	o = e = (struct flow){ 0 };
}

/* The host and the command work at once when a pipe holds as much as the window. */
static void widen(int fd)
{
	sys(FCNTL, fd, SET_SIZE, SLOT, 0);
}

static void feed(void)
{
	i64 done = in < 0 ? (i64)(input_size - input_at)
			  : sys(WRITE, in, (i64)(input + input_at), input_size - input_at, 0);
	if (done == -EAGAIN)
		return;
	if (done < 0) { /* it reads no more: what is sent for it is thrown away */
		shut(&in);
		done = input_size - input_at;
	}
	input_at += done;
	if (input_at == input_size) {
		input_size = 0;
		say('A', 0, 0);
	}
}

/* Pass on what is there; no more than 0 at the end of it. */
static i64 pass(u8 type, int *fd)
{
	static u8 data[FRAME];
	struct flow *flow = type == 'O' ? &o : &e;
	int far = type && by_window;
	u8 *to = far ? window + (type == 'O' ? OUT_AT : ERR_AT) : data;
	i64 got = *fd < 0 ? 0 : sys(READ, *fd, (i64)to, far ? SLOT : FRAME, 0);
	if (got > SMALL && far) {
		flow->busy = 1;
		if (got >= PIPE / 2 && !flow->wide++)
			widen(*fd);
		__sync_synchronize();
		say_number(type == 'O' ? 'o' : 'e', got);
	} else if (got > 0 && type)
		say(type, to, got);
	if (got <= 0)
		shut(fd);
	return got;
}

static u64 bytes_in(int fd)
{
	int count = 0;
	return fd >= 0 && sys(IOCTL, fd, BYTES_THERE, (i64)&count, 0) == 0 ? count : 0;
}

/* Pass on what a command wrote before it ended, as far as the window has room; true when all is.
 * What it left running may write on for ever. */
static int pass_rest(u8 type, int *fd, struct flow *flow)
{
	while (flow->rest && !flow->busy) {
		i64 got = pass(type, fd);
		flow->rest = got > 0 && (u64)got < flow->rest ? flow->rest - got : 0;
	}
	return !flow->rest;
}

static void ended(void)
{
	if (!reaped) {
		status = CANNOT_RUN << 8;
		if (child > 0 && sys(WAIT4, child, (i64)&status, WNOHANG, 0) == 0)
			return;
		reaped = 1, o.rest = bytes_in(out), e.rest = bytes_in(err);
		shut(&pidfd);
	}
	if (!pass_rest('O', &out, &o) | !pass_rest('E', &err, &e))
		return;
	leave(&out);
	leave(&err);
	shut(&in);
	if (input_size)
		feed();
	say_number('X', status);
	child = -1, reaped = 0;
}

/* Whether a file of a folder begins so. */
static int begins(int folder, const char *name, const char *how)
{
	char got[16];
	int same = 0, fd = sys(OPENAT, folder, (i64)name, CLOEXEC, 0);
	if (fd < 0)
		return 0;
	same = sys(READ, fd, (i64)got, sizeof got, 0) >= (i64)length(how);
	for (u64 i = 0; same && how[i]; i++)
		same = got[i] == how[i];
	shut(&fd);
	return same;
}

static u8 *map(int folder, const char *name)
{
	i64 at;
	int fd = sys(OPENAT, folder, (i64)name, RDWR | CLOEXEC, 0);
	if (fd < 0)
		return 0;
	at = sys6(MMAP, 0, WINDOW, READ_WRITE, SHARED, fd, 0);
	shut(&fd);
	return at < 0 && at > -4096 ? 0 : (u8 *)at;
}

/* Where the guest has the device: a kernel that is locked down does not give it away. */
static void open_window(const char *device)
{
	int fd, folder = sys(OPENAT, HERE, (i64)device, CLOEXEC, 0);
	if (folder < 0)
		return;
	if (begins(folder, "vendor", "0x1af4") && begins(folder, "device", "0x1110")) {
		fd = sys(OPENAT, folder, (i64)"enable", WRONLY | CLOEXEC, 0);
		if (fd >= 0)
			sys(WRITE, fd, (i64)"1", 1, 0);
		shut(&fd);
		/* arm64 takes accesses of any size and place in the first way only. */
		window = map(folder, "resource2_wc");
		if (!window && !IS_ARM)
			window = map(folder, "resource2");
		/* Each command would begin with a copy of its thousand entries. */
		if (window)
			sys(MADVISE, (i64)window, WINDOW, DONTFORK, 0);
	}
	shut(&folder);
}

/* Tell by the window that we see it, as somebody else may have it now. What was there is lost then. */
static void answer(void)
{
	static u8 last[NONCE];
	int same = 1;
	for (u64 i = 0; window && i < NONCE; i++) {
		u8 now = ((volatile u8 *)window)[i];
		same &= last[i] == now;
		window[NONCE + i] = last[i] = now;
	}
	if (!same && by_window && input_size) {
		shut(&in);
		input_size = 0;
	}
	__sync_synchronize();
}

/* Two guests restored from one template must not draw the same random numbers. */
static i64 reseed(const u8 *data, u64 size)
{
	i64 done = sys(WRITE, urandom, (i64)data, size, 0);
	/* Refused before the kernel has seeded its generator, which then happens with these bytes. */
	sys(IOCTL, urandom, RESEED_NOW, 0, 0);
	return done < 0 ? done : 0;
}

/* How much lies in the window. */
static u64 told(const u8 *data, u64 most)
{
	u64 size = data[0] | data[1] << 8 | data[2] << 16 | (u64)data[3] << 24;
	if (!window || size > most)
		sys(EXIT, 1, 0, 0, 0);
	return size;
}

/* Return the number of the card with this address; 0 where there is none. */
static unsigned card_of(int fd, const u8 *mac)
{
	for (unsigned number = 1; number < MOST_CARDS; number++) {
		union { u8 bytes[40]; unsigned words[10]; } card = { 0 }; /* struct ifreq */
		int same = 1;
		card.words[4] = number;
		if (sys(IOCTL, fd, GET_NAME, (i64)&card, 0) < 0 || sys(IOCTL, fd, GET_MAC, (i64)&card, 0) < 0)
			continue;
		for (int i = 0; i < MAC; i++)
			same &= card.bytes[MAC_AT + i] == mac[i];
		if (same)
			return number;
	}
	return 0;
}

/* A guest that was restored gets an address of its own. Return 0, or errno, negative. */
static i64 change_card(u8 *data, u64 size)
{
	static unsigned answer[FRAME / 4];
	u64 at = MAC, all;
	i64 failed = 0;
	int fd = sys(SOCKET, NETLINK, RAW | CLOEXEC, 0, 0);
	unsigned card = fd < 0 || size < MAC ? 0 : card_of(fd, data);
	if (!card)
		failed = fd < 0 ? fd : -ENODEV;
	for (; !failed && at < size; at += all) {
		u8 *one = data + at;
		all = size - at < CARD_AT + 4 ? 0 : one[0] | one[1] << 8;
		if (all < CARD_AT + 4 || all > size - at) {
			failed = -EINVAL;
			break;
		}
		for (int i = 0; i < 4; i++)
			one[CARD_AT + i] = card >> 8 * i;
		failed = sys(WRITE, fd, (i64)one, all, 0);
		if (failed > 0)
			failed = sys(READ, fd, (i64)answer, sizeof answer, 0);
		if (failed > 0)
			failed = one[8] ? (int)answer[ERROR_AT / 4] : 0;
	}
	shut(&fd);
	return failed;
}

/* One byte over a connection; false when it does not come within a moment. */
static int carried(int from, int to)
{
	struct pollfd one = { to, POLLIN, 0 };
	u8 byte = 0;
	/* Of two bytes one is left unread, see warm. */
	return sys(WRITE, from, (i64)&left, 2, 0) == 2 && poll(&one, 1, 200) > 0 &&
	       sys(READ, to, (i64)&byte, 1, 0) == 1;
}

/* Run once through the code by which the kernel sends and receives: an emulator translates it when
 * it is first run, and a test that waits for its first byte would wait for that. By the guest's
 * loopback, which nobody else sees. What is closed with bytes unread is reset, and leaves nothing
 * in the kernel's tables. Nothing here waits for long: a guest may have no loopback. */
static i64 warm(void)
{
	struct { unsigned short family, port; u8 address[12]; } here = { INET, 0, { 127, 0, 0, 1 } };
	int ends[3] = { -1, -1, -1 }, size = sizeof here;
	struct pollfd one = { -1, POLLIN, 0 };
	i64 failed = 0;
	/* The one that connects is bound as well: for one that is not, the kernel patches its own code
	 * when it does so for the first time, which takes longer than all the rest. */
	for (int i = 0; i < 2 && !failed; i++) {
		here.port = 0;
		ends[i] = sys(SOCKET, INET, STREAM | NONBLOCK | CLOEXEC, 0, 0);
		failed = sys(BIND, ends[i], (i64)&here, size, 0);
	}
	one.fd = ends[0];
	if (!failed && (failed = sys(LISTEN, ends[0], 1, 0, 0)) == 0 &&
	    (failed = sys(GETSOCKNAME, ends[0], (i64)&here, (i64)&size, 0)) == 0) {
		failed = sys(CONNECT, ends[1], (i64)&here, size, 0);
		if (poll(&one, 1, 200) > 0)
			failed = ends[2] = sys(ACCEPT4, ends[0], 0, 0, NONBLOCK | CLOEXEC);
		if (ends[2] >= 0)
			failed = carried(ends[1], ends[2]) && carried(ends[2], ends[1]) ? 0 : -EAGAIN;
	}
	for (int i = 0; i < 3; i++)
		shut(ends + i);
	return failed;
}

static void frame(void)
{
	u8 head[4];
	static u8 data[FRAME];
	u64 size;
	i64 failed;
	read_all(head, 4);
	size = head[1] | head[2] << 8 | head[3] << 16;
	if (size > FRAME || (head[0] == 'C' && size < CLOCK))
		sys(EXIT, 1, 0, 0, 0);
	read_all(data, size);
	switch (head[0]) {
	case 'C':
		failed = size > CLOCK ? reseed(data + CLOCK, size - CLOCK) : 0;
		answer();
		say_number('C', -(failed ? failed : sys(CLOCK_SETTIME, 0, (i64)data, 0, 0)));
		break;
	case 'N':
		failed = change_card(data, size);
		say_number('N', -failed);
		break;
	case 'S':
		text_size = 0;
		/* fall through */
	case 's':
		for (u64 i = 0; i < size && text_size < TEXT - 1; i++)
			text[text_size++] = data[i];
		say('A', 0, 0);
		break;
	case 'X':
		by_window = 0;
		run();
		break;
	case 'W':
		text_size = told(data, TEXT - 1);
		for (u64 i = 0; i < text_size; i++)
			text[i] = window[TEXT_AT + i];
		by_window = 1;
		run();
		break;
	case 'I':
		for (u64 i = 0; i < size; i++)
			frame_input[i] = data[i];
		input = frame_input, input_at = 0, input_size = size;
		feed();
		break;
	case 'J':
		input = window + INPUT_AT, input_at = 0, input_size = told(data, SLOT);
		if (input_size > PIPE)
			widen(in);
		feed();
		break;
	case 'R':
		(data[0] == 'o' ? &o : &e)->busy = 0;
		break;
	case 'i':
		shut(&in);
		break;
	case 'K':
		if (child > 0)
			sys(KILL, -child, SIGKILL, 0, 0);
		break;
	case 'T':
		say_number('T', -warm());
		break;
	}
}

static i64 number_at(const char **at)
{
	i64 found = 0;
	for (; **at >= '0' && **at <= '9'; ++*at)
		found = found * 10 + **at - '0';
	return found;
}

static i64 number(const char *text)
{
	return number_at(&text);
}

/* Where PATH says, unless its name has a folder. Returns when it cannot be run. */
static void run_found(char **words, char **variables)
{
	char path[4096];
	const char *at = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	u64 name = length(*words);
	for (u64 i = 0; i < name; i++)
		if (words[0][i] == '/') {
			sys(EXECVE, (i64)*words, (i64)words, (i64)variables, 0);
			return;
		}
	for (char **one = variables; *one; one++)
		if (one[0][0] == 'P' && one[0][1] == 'A' && one[0][2] == 'T' && one[0][3] == 'H' && one[0][4] == '=')
			at = *one + 5;
	for (;; at++) {
		u64 n = 0;
		for (; *at && *at != ':'; at++)
			if (n < sizeof path / 2)
				path[n++] = *at;
		path[n++] = '/';
		for (u64 i = 0; i <= name && n < sizeof path; i++)
			path[n++] = words[0][i];
		sys(EXECVE, (i64)path, (i64)words, (i64)variables, 0);
		if (!*at)
			return;
	}
}

/* Becomes a program below another root, where no shell need be. The words: "enter", that root, the
 * folder to begin in, the user, the group and further groups with commas, and the program's own. */
static void enter(char **words, char **variables)
{
	int groups[64];
	i64 count = 0;
	const char *user = words[3], *group = words[4];
	for (const char *at = group; *at && count < 64; at += *at == ',')
		groups[count++] = (int)number_at(&at);
	if (sys(CHROOT, (i64)words[1], 0, 0, 0))
		refuse("vmports: cannot enter ", words[1]);
	if (sys(CHDIR, (i64)words[2], 0, 0, 0))
		refuse("vmports: no such directory: ", words[2]);
	/* Or it could not open its own output by name, as /dev/stderr. */
	for (int fd = 1; fd < 3; fd++)
		sys(FCHOWN, fd, number(user), groups[0], 0);
	if (sys(SETGROUPS, count, (i64)groups, 0, 0) || sys(SETGID, groups[0], 0, 0, 0) ||
	    sys(SETUID, number(user), 0, 0, 0))
		refuse("vmports: cannot become user ", words[3]);
	run_found(words + 5, variables);
	refuse("vmports: cannot run ", words[5]);
}

__attribute__((used)) static void work(u64 *stack)
{
	const char *code = (const char *)stack[2];
	/* Its other words are a number, and a path. */
	if (stack[0] > 6 && *code == 'e')
		enter((char **)stack + 2, (char **)stack + 2 + stack[0]);
	open_window(stack[0] > 2 ? (const char *)stack[3] : "/sys/bus/pci/devices/0000:00:1e.0");
	for (int i = 0; i < LEFT; i++)
		left[i] = -1;
	on_broken_pipe(1 /* SIG_IGN */);
	urandom = sys(OPENAT, HERE, (i64)"/dev/urandom", WRONLY | CLOEXEC, 0);
	answer();
	say('V', code, length(code));
	for (;;) {
		struct pollfd all[5 + LEFT] = {
			{ 0, POLLIN, 0 },
			{ input_size ? in : -1, POLLOUT, 0 },
			{ reaped || o.busy ? -1 : out, POLLIN, 0 },
			{ reaped || e.busy ? -1 : err, POLLIN, 0 },
			{ pidfd, POLLIN, 0 },
		};
		for (int i = 0; i < LEFT; i++)
			all[5 + i] = (struct pollfd){ left[i], POLLIN, 0 };
		/* Kernels before 5.3 have no pidfd: there we look now and then. */
		poll(all, 5 + LEFT, child >= 0 && pidfd < 0 && !reaped ? 50 : -1);
		if (all[0].got)
			frame();
		if (all[1].got && input_size)
			feed();
		if (all[2].got)
			pass('O', &out);
		if (all[3].got)
			pass('E', &err);
		if (child < -1 || (child > 0 && (all[4].got || pidfd < 0)))
			ended();
		for (int i = 0; i < LEFT; i++)
			if (all[5 + i].got)
				pass(0, left + i);
	}
}

#ifdef __x86_64__
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call work\n");
#elif defined(__riscv)
/* The linker shortens addresses to distances from gp, which nobody else sets. */
__asm__(".globl _start\n_start: .option push\n .option norelax\n lla gp, __global_pointer$\n .option pop\n mv a0, sp\n call work\n");
#else
__asm__(".globl _start\n_start: mov x29, xzr\n mov x30, xzr\n mov x0, sp\n bl work\n");
#endif
