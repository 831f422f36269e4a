"""Video files to frames and back, and drawn videos."""
