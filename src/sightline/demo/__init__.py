"""Demo data: head phantoms, so that the whole pipeline runs where there is no data set."""
