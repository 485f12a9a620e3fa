"""``python -m msal_deploy``."""

from msal_deploy.cli import main

if __name__ == "__main__":
    main()
