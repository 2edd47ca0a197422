"""Files: atomic writes, hashes, tables and the user's cache folder."""
