"""Run a search on a Ray cluster; resume it if it was interrupted.

export RAY_AUTH_MODE=token                                # everywhere; docs/cluster.md has more
ray start --head                                          # on one machine
ray start --address HEAD:6379                             # on the others, which see the same run folder
python examples/cluster.py --address HEAD:6379 --workers 16
"""

import argparse

import nas_distill as nd

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the cluster's head; unless given, Ray runs on this machine only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", default="runs/cluster")
    options = parser.parse_args()
    run = nd.search(
        teacher="fashion-resnet",
        data="fashion-mnist",
        space="mbconv",
        budget={"flops": "1M"},
        trials=4,
        address=options.address,
        workers=options.workers,
        folder=options.folder,
        resume=True,
        score={"epochs": 1},
        final={"epochs": 1, "count": 1},
    )
    print(run.front())
