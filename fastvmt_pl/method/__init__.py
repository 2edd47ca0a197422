"""The method: guided denoising, sampling, and the reading of a reference's motion."""
