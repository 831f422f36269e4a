"""The recurrences of other mixers: linear attention, the scans of Mamba and Mamba-2."""
