"""The registry of customers and meters: parsing it, the versions of a meter, finding a meter."""
