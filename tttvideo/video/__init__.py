"""The parts that video alone has."""
