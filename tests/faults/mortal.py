"""A model server that dies of one picture: `python -m tests.faults.mortal PORT SHA256`. It aborts as a CUDA error or a
bug in a library would make it, in the middle of everything that it was asked.
"""

import base64
import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.faults.minting import subject
from tests.faults.provider import answers_of

BATCH_S = 0.05
"""Everything that comes within this is looked at together."""


class Mortal(BaseHTTPRequestHandler):
    deadly = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        threading.Event().wait(BATCH_S)
        jpeg = base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].rpartition(",")[2])
        if hashlib.sha256(jpeg).hexdigest() == self.deadly:
            os.abort()
        schema = body["response_format"]["json_schema"]["schema"]["properties"]
        words = answers_of(schema, f"about {subject(jpeg)}")
        choice = {"message": {"content": words}, "finish_reason": "stop"}
        content = json.dumps({"model": "mortal", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


def main(port: int, deadly: str) -> None:
    Mortal.deadly = deadly
    with ThreadingHTTPServer(("127.0.0.1", port), Mortal) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
