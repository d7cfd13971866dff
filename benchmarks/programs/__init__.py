"""The programs that the setups start; none of them is part of natsmesh."""
