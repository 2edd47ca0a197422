"""Decode video files in a process of its own, which imports nothing but this folder, numpy and FFmpeg."""
