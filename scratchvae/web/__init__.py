"""Pages to look at: one self-contained HTML file each, opened from the disk, without a network."""
