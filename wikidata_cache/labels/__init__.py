"""Labels in many languages: an index from labels to ids, and how labels are compared."""
