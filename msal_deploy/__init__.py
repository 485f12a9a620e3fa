"""msal-deploy: from an MSAL-Net checkpoint to an engine whose Dice is proved."""

__version__ = "0.1.0"
