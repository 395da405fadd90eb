"""`plumbline capacity`: what a number of cameras needs."""
