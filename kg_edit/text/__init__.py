"""Work with text: compare answers with targets and prompts with prompts, make tables, make text safe to show."""
