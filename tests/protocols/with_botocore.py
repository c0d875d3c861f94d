"""An upload as the AWS SDK for Python does it: it waits for `100 Continue`, and says when none came."""

import logging
import os
import sys

import urllib3.util
from botocore import awsrequest
from botocore.httpsession import URLLib3Session


class Heard(logging.Handler):
    def emit(self, record):
        if "100 Continue response seen" in record.getMessage():
            print("told to go on")
        if "No response seen from server" in record.getMessage():
            print("nobody told it to go on")


logging.getLogger("botocore.awsrequest").setLevel(logging.DEBUG)
logging.getLogger("botocore.awsrequest").addHandler(Heard())

# It waits for a second. On a busy machine that would be too short for a test.
wait_for_read = urllib3.util.wait_for_read
urllib3.util.wait_for_read = lambda sock, _timeout: wait_for_read(sock, 60)

with open(sys.argv[1], "rb") as body:
    headers = {"Authorization": "Bearer locum_main", "Expect": b"100-continue"}
    request = awsrequest.AWSRequest("PUT", "https://api.test/bucket/key", headers=headers, data=body)
    proxies = {"https": os.environ["HTTPS_PROXY"]}
    session = URLLib3Session(verify=os.environ["AWS_CA_BUNDLE"], proxies=proxies)
    answer = session.send(request.prepare())
    print(answer.status_code, answer.text)
