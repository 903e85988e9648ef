"""Loading: batches down the ladder, by one process or many."""
