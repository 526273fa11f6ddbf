"""Objects of any store, read and written with patience: URLs, folders, the files of a disk, and what is kept on
this machine."""
