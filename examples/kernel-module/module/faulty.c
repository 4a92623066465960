// SPDX-License-Identifier: GPL-2.0
// /proc/faulty: whoever reads it has the kernel follow a pointer that leads nowhere.
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static const char *volatile answer;

static int show(struct seq_file *file, void *unused)
{
	seq_putc(file, *answer);
	return 0;
}

static int __init faulty_init(void)
{
	return proc_create_single("faulty", 0444, NULL, show) ? 0 : -ENOMEM;
}

static void __exit faulty_exit(void)
{
	remove_proc_entry("faulty", NULL);
}

module_init(faulty_init);
module_exit(faulty_exit);

MODULE_DESCRIPTION("Stumbles when it is read");
MODULE_LICENSE("GPL");
