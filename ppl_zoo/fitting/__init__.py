"""Fitting: ``fit``, the ``Fit`` it returns, saving, checks and calibration."""
