"""What models of several families share: conjugate updates, missing values, validation."""
