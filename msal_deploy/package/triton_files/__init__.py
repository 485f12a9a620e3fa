"""Files that ``package triton`` copies into a model repository. They import nothing of msal_deploy."""
