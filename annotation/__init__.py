"""What the clusters are: their map in the plane, marker genes, likely cell types, and doubts."""
