"""Takes the objects of Kubernetes out of the pages of docs/, into files to check.

    pages.py FOLDER

Each page's objects go into FOLDER/PAGE.yaml, and the values of a HelmRelease into
FOLDER/values/PAGE.yaml. A block that is no object, such as an adapter's rule, is only parsed.
"""

import pathlib
import re
import sys

import yaml

# Custom resources whose definitions are in no package.
UNDEFINED = ("alb.networking.azure.io/",)
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)

folder = pathlib.Path(sys.argv[1])
(folder / "values").mkdir(parents=True)
for page in sorted(pathlib.Path("docs").glob("*.md")):
    documents = [
        document
        for block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for document in yaml.safe_load_all(block)
    ]
    objects = [document for document in documents if "kind" in document]
    defined = [found for found in objects if not found["apiVersion"].startswith(UNDEFINED)]
    if defined:
        (folder / f"{page.stem}.yaml").write_text(yaml.safe_dump_all(defined), encoding="utf-8")
    for release in objects:
        if release["kind"] == "HelmRelease":
            values = yaml.safe_dump(release["spec"]["values"])
            (folder / "values" / f"{page.stem}.yaml").write_text(values, encoding="utf-8")
