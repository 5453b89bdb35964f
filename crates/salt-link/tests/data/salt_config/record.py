"""Records what a real Salt makes of the configurations in `cases/`.

Usage: <python of a Salt environment> record.py > recorded-<series>.json

Paths below `cases/` are written as `CASES/...`, so that the records fit any checkout.
"""

import json
import os
import sys

import salt.config

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = os.path.join(HERE, "cases")

MASTER = """id user interface ret_port publish_port pki_dir cachedir sock_dir ipc_mode
tcp_master_pub_port tcp_master_pull_port order_masters zmq_filtering sign_pub_messages timeout
keysize max_event_size hash_type cluster_id""".split()

SYNDIC = """id user pki_dir sock_dir cachedir master master_port publish_port master_id
syndic_mode syndic_failover syndic_finger master_finger hash_type sign_pub_messages
verify_master_pubkey_sign encryption_algorithm signing_algorithm zmq_filtering
minion_sign_messages keysize acceptance_wait_time acceptance_wait_time_max rejected_retry
auth_timeout auth_tries request_channel_timeout timeout syndic_event_forward_timeout
max_event_size enable_legacy_startup_events ipv6""".split()


def pick(opts, keys):
    return {key: opts[key] for key in keys if key in opts}


def pick_master(opts):
    picked = pick(opts, MASTER)
    if picked["id"].endswith("_master"):
        # Made from the name of the host that records.
        del picked["id"]
    return picked


def main():
    recorded = {}
    for case in sorted(os.listdir(CASES)):
        master = os.path.join(CASES, case, "master")
        minion = os.path.join(CASES, case, "minion")
        recorded[case] = {
            "master": pick_master(salt.config.master_config(master)),
            "syndic": pick(salt.config.syndic_config(master, minion), SYNDIC),
        }
    text = json.dumps(recorded, indent=1, sort_keys=True)
    sys.stdout.write(text.replace(CASES, "CASES") + "\n")


if __name__ == "__main__":
    main()
