"""The life of one VM."""
