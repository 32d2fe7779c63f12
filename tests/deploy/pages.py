"""Takes the objects of Kubernetes out of the pages of docs/, into files to check.

    pages.py FOLDER

Each page's objects go into FOLDER/PAGE.yaml, and the values of a HelmRelease into
FOLDER/PAGE.values.yaml. A block that is no object, such as an adapter's rule, is only parsed.
"""

import pathlib
import re
import sys

import yaml

BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for page in sorted(pathlib.Path("docs").glob("*.md")):
    documents = [
        document
        for block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for document in yaml.safe_load_all(block)
    ]
    objects = [document for document in documents if "kind" in document]
    if objects:
        (folder / f"{page.stem}.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    for release in objects:
        if release["kind"] == "HelmRelease":
            values = yaml.safe_dump(release["spec"]["values"])
            (folder / f"{page.stem}.values.yaml").write_text(values, encoding="utf-8")
