"""Known faults, injected on purpose and for a moment, so that the blame can be checked. Needs no compiler."""
