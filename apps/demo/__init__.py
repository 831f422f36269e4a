"""`tttvideo demo`: train small models of video, and show what they predict and remember."""
