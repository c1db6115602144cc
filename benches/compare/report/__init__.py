"""Results as text for people, as a drawing, and into the documents."""
