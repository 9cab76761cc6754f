"""What an extension of rdistill may hold; see README.md. Its modules register what they hold when they are imported."""
