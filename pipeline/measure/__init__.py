"""Images of one's own, measured in this process: `make_vdna`, and single images ranked beside a dataset."""
