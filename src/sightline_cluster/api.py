"""The few requests that a launcher makes of a cluster's API; answers are plain dictionaries."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import urllib3
import yaml

from sightline.config import check_http_address
from sightline.errors import SettingsError, UserError
from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import API_VERSION, KIND, PLURAL, Manifest

try:
    from kubernetes import client as kubernetes_client
    from kubernetes import config as kubernetes_config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.utils.quantity import parse_quantity

    # KFP brings the first along; this one, which takes its time, is imported to create a job.
    if importlib.util.find_spec("kubeflow.training") is None:
        raise ModuleNotFoundError(name="kubeflow.training")
except ModuleNotFoundError as error:
    raise UserError(f"{error.name} is not installed: pip install 'sightline[cluster]'") from None

JOB_LABEL = "training.kubeflow.org/job-name"
CONTAINER = "pytorch"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_NAMESPACE = "sightline"
_TIMEOUT = (3.05, 15)  # seconds to connect, and to wait for an answer
# What OpenSSL makes of a server's words without TLS; the second is its name since 3.2.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE")
_PASSING = (429, 500, 502, 503, 504)


class ApiAwayError(Exception):
    """The API gave no answer, or one that another try may change."""


class WebhookAwayError(ApiAwayError):
    """The API has to ask a webhook of an operator first, and that gives no answer."""


class RefusedError(UserError):
    """The API does not let us do this, or not the API but what stands before it.

    To whoever begins it is final; one that follows a job has been let before, and waits.
    """


class NoSuchJobError(Exception):
    """There is no job of that name (any more)."""


class Api:
    """Requests about the jobs of one namespace.

    Two connections are kept open, and used in turns: at any moment one of them is idle, so that a
    signal's handler can delete the job on it without opening one.
    """

    def __init__(
        self, configuration: kubernetes_client.Configuration, namespace: str, own_pod: str = ""
    ) -> None:
        """Keep what reaches the cluster; nothing is asked of it yet.

        Args:
            configuration: The API's address, and who we are.
            namespace: Where the jobs are.
            own_pod: Name of the pod that this process runs in, if that is in the same namespace.
        """
        self.namespace = namespace
        self._own_pod = own_pod
        self.configuration = configuration
        self._pair = [kubernetes_client.ApiClient(configuration) for _ in range(2)]
        self._others = kubernetes_client.ApiClient(configuration)

    def job(self, name: str) -> Manifest:
        """Return a job.

        Raises:
            NoSuchJobError: If there is none.
            ApiAwayError: If another try may help.
        """
        # The next one is taken first: whatever interrupts this request finds the other one idle.
        self._pair.reverse()
        found: Manifest = self._ask(self._pair[1], "GET", self._jobs(name))
        if found.get("kind") != KIND:
            raise self._is_no_kubernetes("without what was asked for")
        return found

    def try_to_create(self, job: Manifest) -> Manifest:
        """Return a job as it would be if it were created now; it is not.

        Raises:
            UserError: If it would be refused.
            ApiAwayError: If another try may help.
        """
        answer: Manifest = self._ask(
            self._others, "POST", self._jobs(), [("dryRun", "All")], body=job
        )
        return answer

    def delete(self, name: str, wait_for_pods: bool = False) -> bool:
        """Delete a job, and with it its pods; say whether there was one."""
        policy = "Foreground" if wait_for_pods else "Background"
        try:
            self._ask(self._pair[0], "DELETE", self._jobs(name), body={"propagationPolicy": policy})
        except NoSuchJobError:
            return False
        return True

    def jobs(self, selector: str) -> list[Manifest]:
        """Return the jobs whose labels match."""
        return self._items(self._jobs(), [("labelSelector", selector)])

    def note(self, name: str, annotations: Mapping[str, str]) -> None:
        """Write annotations on a job."""
        body = {"metadata": {"annotations": dict(annotations)}}
        self._ask(self._others, "PATCH", self._jobs(name), body=body)

    def pods(self, job: str) -> tuple[list[Manifest], str]:
        """Return a job's pods, and the version that a watch goes on from."""
        answer = self._list(self._core("pods"), [("labelSelector", f"{JOB_LABEL}={job}")])
        return answer["items"], answer["metadata"]["resourceVersion"]

    def watch_pods(self, job: str, version: str, seconds: int) -> Iterator[Manifest]:
        """Yield what changes about a job's pods, for some seconds."""
        query = [
            ("labelSelector", f"{JOB_LABEL}={job}"),
            ("resourceVersion", version),
            ("watch", "true"),
            ("timeoutSeconds", str(seconds)),
        ]
        for line in self._stream(self._core("pods"), query, seconds + 15):
            yield json.loads(line)

    def log(self, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the lines of a pod's log as they are written."""
        asked = [("container", CONTAINER), ("follow", "true"), *query.items()]
        return self._stream(self._core("pods", pod, "log"), asked, None)

    def events(self, uid: str) -> list[Manifest]:
        """Return the events about one object, oldest first; not those of an earlier namesake."""
        found = self._items(self._core("events"), [("fieldSelector", f"involvedObject.uid={uid}")])
        return sorted(
            found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or ""
        )

    def require_namespace(self) -> None:
        """Ask whether our namespace is there: where it is not, lists of it are empty.

        Raises:
            UserError: If it is not; that we may not ask is no error.
        """
        with contextlib.suppress(RefusedError):
            self._ask(self._others, "GET", self._core())

    def own_pod(self) -> Manifest | None:
        """Return the pod that this process runs in; None, if in none, or in another namespace."""
        if not self._own_pod:
            return None
        query = [("fieldSelector", f"metadata.name={self._own_pod}")]
        return next(iter(self._items(self._core("pods"), query)), None)

    def owner(self) -> Manifest | None:
        """Return what this process's pod belongs to, as a reference; None, if to nothing.

        That is the Workflow of a pipeline's run, or the Job that makes launchers anew: it is there
        while pods come and go.
        """
        pod = self.own_pod()
        for reference in pod["metadata"].get("ownerReferences", []) if pod else []:
            if reference.get("controller"):
                return {name: reference[name] for name in ("apiVersion", "kind", "name", "uid")}
        return None

    def quotas(self) -> list[Manifest]:
        """Return the namespace's resource quotas; none, if we may not read them."""
        try:
            return self._items(self._core("resourcequotas"), [])
        except (NoSuchJobError, UserError):
            return []

    def explain(self, error: BaseException) -> Exception:
        """Return the API's refusal as what it means here."""
        if not isinstance(error, ApiException) or not error.status:
            if "CERTIFICATE" in str(error):  # of OpenSSL's own reasons; others may pass
                return RefusedError(
                    f"{self.configuration.host} has a certificate that is not accepted "
                    f"({_first_line(error)}): mend certificate-authority in the kubeconfig"
                )
            if _NO_TLS.search(str(error)):
                return RefusedError(
                    f"{self.configuration.host} does not speak TLS ({_first_line(error)}): write "
                    "http:// in the kubeconfig's server, or the port of its https"
                )
            if isinstance(error, urllib3.exceptions.LocationValueError):
                return RefusedError(
                    f"{self.configuration.host} is no address that could be asked "
                    f"({_first_line(error)}): mend the kubeconfig's server"
                )
            return ApiAwayError(f"the cluster's API gives no answer ({_first_line(error)})")
        told = _message(error)
        if webhook := re.search(r'failed calling webhook "([^"]+)"', told):
            return _explain_webhook(webhook[1], told)
        if error.status in _PASSING:
            return ApiAwayError(f"the cluster's API answers {error.status}: {told}")
        if error.status == 401:
            return RefusedError(
                f"the cluster does not accept who we are (401): renew the login; it says: {told}"
            )
        if not _is_kubernetes(error):
            return self._is_no_kubernetes(f"{error.status}, {told}")
        if error.status == 403 and "exceeded quota" in told:
            return UserError(
                f"namespace {self.namespace} has no room for another job: delete finished ones, "
                f"which stay for cluster.keep_hours, or raise the quota; it says: {told}"
            )
        if error.status == 403 and "system:anonymous" in told:
            return RefusedError(
                f"the cluster takes us for nobody: renew the login that KUBECONFIG names (a token, "
                f"a certificate, an exec plugin); it says: {told}"
            )
        if error.status == 403:
            return RefusedError(
                f"{told}: bind the role sightline-launcher of k8s/base to whoever that is, in "
                f"namespace {self.namespace}"
            )
        if error.status == 404 and f'namespaces "{self.namespace}" not found' in told:
            return UserError(
                f"there is no namespace {self.namespace}: kubectl apply -k k8s/overlays/dev makes "
                "one, kubectl get namespaces lists those that are there"
            )
        if error.status == 404 and ("404 page" in told or "could not find the requested" in told):
            return RefusedError(
                f"{self.configuration.host} knows no {KIND} ({API_VERSION}): install Kubeflow's "
                "Training Operator 1.9 (docs/cluster.md), or see that it is the cluster's API that "
                f"answers there; it says: {told}"
            )
        if error.status == 404:
            return NoSuchJobError(told)
        return UserError(f"the cluster refuses the job ({error.status}): {told}")

    def _is_no_kubernetes(self, answer: str) -> RefusedError:
        return RefusedError(
            f"{self.configuration.host} is no Kubernetes API, it answers otherwise ({answer}): set "
            "KUBECONFIG to a cluster's"
        )

    def _jobs(self, *name: str) -> str:
        return "/".join([f"/apis/{API_VERSION}/namespaces", self.namespace, PLURAL, *name])

    def _core(self, *parts: str) -> str:
        return "/".join(["/api/v1/namespaces", self.namespace, *parts])

    def _items(self, path: str, query: list[tuple[str, str]]) -> list[Manifest]:
        return list(self._list(path, query)["items"])

    def _list(self, path: str, query: list[tuple[str, str]]) -> Manifest:
        answer: Manifest = self._ask(self._others, "GET", path, query)
        if not isinstance(answer.get("items"), list):
            raise self._is_no_kubernetes("without what was asked for")
        return answer

    def _ask(
        self,
        client: kubernetes_client.ApiClient,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
    ) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with self._explained():
            answer = client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
                response_type="object",
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT,
            )
        if not isinstance(answer, dict):
            raise self._is_no_kubernetes(_first_line(answer))
        return answer

    def _stream(
        self, path: str, query: list[tuple[str, str]], read_seconds: float | None
    ) -> Iterator[bytes]:
        # A connection of its own, closed at the end: it may be left in the middle of an answer.
        client = kubernetes_client.ApiClient(self.configuration)
        try:
            with self._explained():
                answer = client.call_api(
                    path,
                    "GET",
                    query_params=query,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _return_http_data_only=True,
                    _request_timeout=(_TIMEOUT[0], read_seconds),
                )
                partial = b""
                for chunk in answer.stream(65536):
                    *lines, partial = (partial + chunk).split(b"\n")
                    yield from (line for line in lines if line)
                if partial:
                    yield partial
        finally:
            client.rest_client.pool_manager.clear()
            client.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what goes wrong with a request as what it means here."""
        try:
            yield
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            raise self.explain(error) from None
        except UnicodeDecodeError as error:
            raise self._is_no_kubernetes(str(error)) from None
        except ValueError:  # whose words repeat the header
            raise RefusedError(
                "what we log in with cannot be sent: a token, a name or a password holds what no "
                "header may, such as a line's end or a dash that is not -: renew it, or set "
                "KUBECONFIG to another"
            ) from None


def connect(namespace: str = "") -> Api:
    """Return the API of the cluster that this process runs in, or that KUBECONFIG names.

    Raises:
        UserError: If neither is there, or KUBECONFIG cannot be read.
    """
    configuration = kubernetes_client.Configuration()
    own_pod, path = "", os.environ.get("KUBECONFIG")
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and not path:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
            own = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            if namespace in ("", own):  # owners in other namespaces do not count
                own_pod = os.environ.get("KFP_POD_NAME") or os.uname().nodename
        else:
            # Named, because the client reads the variable only once, when it is imported.
            path = path or kubernetes_config.KUBE_CONFIG_DEFAULT_LOCATION
            own = _load_kubeconfig(path, configuration) or _DEFAULT_NAMESPACE
    except (kubernetes_config.ConfigException, OSError) as error:
        raise UserError(
            f"a cluster is needed, and none is known here ({error}): set KUBECONFIG to a readable "
            "file, or run inside a pod with a service account's token"
        ) from None
    # What is wrong with a file reaches us as whatever its reading stumbles over.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        what = " ".join(f"{kind}{error}".split())
        raise UserError(
            f"kubeconfig {path} cannot be used ({what}): mend it, or set KUBECONFIG to another"
        ) from None
    # Ours to try again, with words: the client's own three tries are silent.
    configuration.retries = urllib3.Retry(total=0)
    return Api(configuration, namespace or own, own_pod)


def _load_kubeconfig(path: str, configuration: kubernetes_client.Configuration) -> str:
    """Take over what the current context of a kubeconfig says; return its namespace, if any.

    Raises:
        ValueError: If it asks for what cannot be, or what the client would leave out in silence.
    """
    held = kubernetes_config.kube_config.KubeConfigMerger(path).config
    if held is None:
        raise kubernetes_config.ConfigException(f"there is no {path}")
    name = held["current-context"]
    context = held["contexts"].get_with_name(name)["context"]
    namespace = context.safe_get("namespace") or ""
    try:
        ClusterConfig.from_values({"namespace": namespace})
    except SettingsError as error:
        raise ValueError(f"context {name}, {error.problems[0]}") from None
    cluster = held["clusters"].get_with_name(context["cluster"]).safe_get("cluster")
    if not cluster.get("server"):
        raise ValueError(f"cluster {context['cluster']} has no server")
    for part, example in (("server", "https://10.0.0.1:6443"), ("proxy-url", "http://proxy:3128")):
        try:
            check_http_address(
                cluster.get(part) or "", "users of the kubeconfig hold them", example
            )
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from None
    login = held["users"].get_with_name(context.safe_get("user"), safe=True)
    user = (login.safe_get("user") if login else None) or {}
    provider = (user.get("auth-provider") or {}).get("name", "")
    if provider not in ("", "oidc"):
        raise ValueError(
            f"auth-provider {provider} is gone from Kubernetes since 1.26: log in by an exec plugin"
        )
    kubernetes_config.load_kube_config(path, client_configuration=configuration)
    if "proxy-url" in cluster:
        configuration.proxy = cluster["proxy-url"] or None
        configuration.no_proxy = None  # which later clients take from the environment
    return str(namespace)


def amount(quantity: str) -> Fraction:
    """Return the number that a quantity of Kubernetes, such as 500m or 8Gi, stands for."""
    return Fraction(parse_quantity(quantity))


def _explain_webhook(name: str, told: str) -> WebhookAwayError:
    service = re.search(r"https?://([-a-z0-9]+)\.([-a-z0-9]+)\.svc\b", told)
    whose = f" of service {service[1]} in namespace {service[2]}" if service else ""
    where = f" -n {service[2]}" if service else " -A"
    return WebhookAwayError(
        f"the cluster's API cannot ask admission webhook {name}{whose} about the job: see that the "
        f"operator it belongs to, such as Kubeflow's Training Operator or Kueue, runs (kubectl get "
        f"pods{where}); the API says: {told}"
    )


def _is_kubernetes(error: ApiException) -> bool:
    """Say whether a refusal is written as Kubernetes writes them; ingresses have some of theirs."""
    # The second is what an API server answers about a group of resources that it does not know.
    return bool(_status(error)) or "404 page not found" in str(error.body)


def _message(error: ApiException) -> str:
    return str(_status(error).get("message") or _first_line(error.body or error.reason))


def _status(error: ApiException) -> dict[str, Any]:
    """Return a refusal's Status, as Kubernetes calls it; empty, if it is another's."""
    with contextlib.suppress(TypeError, ValueError):
        answer = json.loads(error.body)
        if isinstance(answer, dict) and answer.get("kind") == "Status":
            return answer
    return {}


def _first_line(text: object) -> str:
    return str(text).strip().splitlines()[0] if str(text).strip() else type(text).__name__
