// SPDX-License-Identifier: GPL-2.0
// /dev/capitals: what is written comes back in capitals. Each open file has a text of its own.
#include <linux/ctype.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static unsigned int limit = 64;
module_param(limit, uint, 0444);
MODULE_PARM_DESC(limit, "bytes that an open file takes");

struct text {
	struct mutex lock; // of size and bytes: threads may share an open file
	size_t size;
	char bytes[];
};

static int capitals_open(struct inode *inode, struct file *file)
{
	struct text *text = kzalloc(struct_size(text, bytes, limit), GFP_KERNEL);

	if (!text)
		return -ENOMEM;
	mutex_init(&text->lock);
	file->private_data = text;
	return 0;
}

static int capitals_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t capitals_write(struct file *file, const char __user *from, size_t count,
			      loff_t *offset)
{
	struct text *text = file->private_data;
	ssize_t done = -ENOSPC;
	size_t i;

	mutex_lock(&text->lock);
	if (count > limit - text->size)
		goto out;
	done = -EFAULT;
	if (copy_from_user(text->bytes + text->size, from, count))
		goto out;
	for (i = text->size; i < text->size + count; i++)
		text->bytes[i] = toupper(text->bytes[i]);
	text->size += count;
	done = count;
out:
	mutex_unlock(&text->lock);
	return done;
}

static ssize_t capitals_read(struct file *file, char __user *to, size_t count, loff_t *offset)
{
	struct text *text = file->private_data;
	ssize_t done;

	mutex_lock(&text->lock);
	done = simple_read_from_buffer(to, count, offset, text->bytes, text->size);
	mutex_unlock(&text->lock);
	return done;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = capitals_open,
	.release = capitals_release,
	.read = capitals_read,
	.write = capitals_write,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "capitals",
	.fops = &operations,
	.mode = 0666,
};

module_misc_device(device);

MODULE_DESCRIPTION("Returns in capitals what was written");
MODULE_LICENSE("GPL");
