"""What happens to a patch after it is made: ledger, exports, a server. Imports the core alone."""
