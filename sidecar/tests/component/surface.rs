//! What a sidecar shows of itself: reflection and health.

use tonic::transport::Endpoint;

use crate::memory::{PATIENCE, TestNode};

#[tokio::test]
async fn over_tcp_everything_is_there_by_reflection_alone() {
    use tonic_reflection::pb;
    let node = TestNode::start().await;
    let address = format!("http://127.0.0.1:{}", node.grpc_port);
    let endpoint = Endpoint::from_shared(address).expect("a URI");
    let channel = endpoint.connect().await.expect("it listens on TCP");
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    use pb::v1::server_reflection_request::MessageRequest;
    use pb::v1::server_reflection_response::MessageResponse;
    let ask =
        |what| pb::v1::ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("kar.v1.InvocationService".into())),
    ]);
    let mut answers =
        client.server_reflection_info(requests).await.expect("reflection v1").into_inner();
    let mut next = async || {
        let answer = answers.message().await.expect("an answer").expect("one for each request");
        answer.message_response.expect("never empty")
    };
    let MessageResponse::ListServicesResponse(services) = next().await else {
        panic!("not the services")
    };
    let names: Vec<_> = services.service.into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"kar.v1.ComponentService".to_owned()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("kar.hub") || n.starts_with("kar.peer")));
    assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));

    let mut old = pb::v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    use pb::v1alpha::server_reflection_request::MessageRequest as OldRequest;
    let request = pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(OldRequest::ListServices(String::new())),
    };
    let answers = old.server_reflection_info(tokio_stream::iter([request])).await;
    let mut answers = answers.expect("reflection v1alpha").into_inner();
    assert!(answers.message().await.expect("an answer").is_some());
}

#[tokio::test]
async fn health_tells_whether_anything_can_be_made_durable() {
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let node = TestNode::start().await;
    let mut client = HealthClient::new(node.channel().await);
    let request = HealthCheckRequest { service: "kar.v1.InvocationService".into() };
    let mut watch = client.watch(request).await.expect("it is known").into_inner();
    let mut until = async |wanted: ServingStatus| {
        let reached = async {
            loop {
                let status = watch.message().await.expect("open").expect("open").status;
                if status == wanted as i32 {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it changes");
    };
    until(ServingStatus::Serving).await;
    node.connected.send_replace(false);
    until(ServingStatus::NotServing).await;
    node.connected.send_replace(true);
    until(ServingStatus::Serving).await;
}
