"""The covariance C = E[k kᵀ] of a layer's keys: measuring it on a corpus, storing it in files, solving with it."""
