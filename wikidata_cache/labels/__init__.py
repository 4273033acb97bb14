"""Labels in many languages: an index from labels to ids, and the normalised form in which labels are compared."""
