"""What people look at: runs side by side, and the pages of a run and of a search."""
