"""The recurrences of other mixers: linear attention, the gated delta rule, the scans of Mamba."""
