"""Test-Time Training layers for long text and dense video."""
