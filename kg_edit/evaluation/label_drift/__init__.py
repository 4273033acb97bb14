"""Label drift: how far a sentence classifier's answers change after edits."""
