"""RLEdit: MALMEN's network, trained on sequences of batches whose updates stay in the weights."""
