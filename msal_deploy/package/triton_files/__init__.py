"""Files that ``package triton`` copies into a model repository. They do not import msal_deploy."""
