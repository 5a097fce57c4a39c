"""Sources of measurements: the only part of the analysis that does I/O."""
