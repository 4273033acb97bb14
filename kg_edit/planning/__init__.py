"""What an edit will take, before anything is loaded: memory from the model's shape, time from a short benchmark."""
