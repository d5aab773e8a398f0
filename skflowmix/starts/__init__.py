"""Before training: rows as NumPy tables, first partitions and Gaussians."""
