"""The file formats that `readers.py` knows: what they share (`hdf5`), and each one (`layouts`)."""
