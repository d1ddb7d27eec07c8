-- What Envoy itself takes for gRPC: "application/grpcx" is not.
local function is_native(content_type)
  return content_type == "application/grpc"
    or content_type ~= nil and content_type:sub(1, 17) == "application/grpc+"
end
