"""KnowledgeEditor (KE): a recurrent network reads an edit and gates and shifts its gradient; with its training."""
