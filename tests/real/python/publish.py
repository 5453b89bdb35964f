"""Publishes one job through Salt's own client, with options that the `salt` command does not have.

    python publish.py CONF_DIR '{"tgt": "*", "fun": "test.ping", "ret_config": "alternative"}'

The JSON map holds the keyword arguments of `LocalClient.run_job`. Standard output is what that returns, as JSON.
"""

import json
import os
import sys

import salt.client

client = salt.client.LocalClient(os.path.join(sys.argv[1], "master"))
print(json.dumps(client.run_job(**json.loads(sys.argv[2]))))
